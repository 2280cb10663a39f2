#include "../kernels/smooth.h"

#include "rows.h"

KX_TABLE(smooth, CpuEngine)
