#include "../kernels/products.h"

#include "products.h"

KX_TABLE(products, ProductEngine)
