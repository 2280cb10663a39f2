#include "../kernels/multilabel.h"

#include "elements.h"
#include "short_rows.h"

KX_TABLE(multilabel, MultilabelEngine)
