#include "../kernels/logarithmic.h"

#include "words.h"

KX_TABLE(logarithmic, WordEngine)
