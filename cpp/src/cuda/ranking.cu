#include "../kernels/ranking.h"

#include "serial.h"

KX_TABLE(ranking, CudaSerial)
