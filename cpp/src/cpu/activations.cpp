#include "../kernels/activations.h"

#include "elements.h"

KX_TABLE(activations, ElementEngine)
