#include "../kernels/multilabel.h"

#include "targets.h"

KX_TABLE(multilabel, CudaLosses)
