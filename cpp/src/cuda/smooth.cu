#include "../kernels/smooth.h"

#include "engine.h"

KX_TABLE(smooth, CudaEngine)
