#include "../kernels/divergences.h"

#include "engine.h"

KX_TABLE(divergences, CudaEngine)
