#include "../kernels/crossentropy.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(crossentropy, LossEngine)
