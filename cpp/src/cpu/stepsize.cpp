#include "../kernels/stepsize.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(stepsize, LossEngine)
