#include "../kernels/reductions.h"

#include "engine.h"

KX_TABLE(reductions, CudaEngine)
