#include "../kernels/reductions.h"

#include "rows.h"

KX_TABLE(reductions, CpuEngine)
