// What kernels without a product call: a block works on a row.
#pragma once

#include "step.cuh"
#include "team.cuh"
