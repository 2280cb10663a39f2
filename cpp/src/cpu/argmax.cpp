#include "../kernels/argmax.h"

#include "whole_rows.h"

KX_TABLE(argmax, WholeRowEngine)
