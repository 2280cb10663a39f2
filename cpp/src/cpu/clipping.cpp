#include "../kernels/clipping.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(clipping, LossEngine)
