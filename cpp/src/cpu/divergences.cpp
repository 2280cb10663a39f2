#include "../kernels/divergences.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(divergences, LossEngine)
