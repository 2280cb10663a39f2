#include "../kernels/multilabel.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(multilabel, LossEngine)
