// The special family in one header.
#pragma once

#include "reductions.h"
