#include "../kernels/multilabel.h"

#include "short_rows.h"

KX_TABLE(multilabel, MultilabelEngine)
