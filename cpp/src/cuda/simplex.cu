#include "../kernels/simplex.h"

#include "elements.h"
#include "in_memory.h"

KX_TABLE(simplex, CudaMemory)
