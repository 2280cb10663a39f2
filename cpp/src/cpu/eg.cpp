#include "../kernels/eg.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(eg, LossEngine)
