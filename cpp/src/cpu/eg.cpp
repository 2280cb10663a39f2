#include "../kernels/eg.h"

#include "short_weights.h"

KX_TABLE(eg, WeightEngine)
