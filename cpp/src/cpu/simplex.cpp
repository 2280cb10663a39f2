#include "../kernels/simplex.h"

#include "in_memory.h"

KX_TABLE(simplex, MemoryEngine)
