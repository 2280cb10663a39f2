// The CUDA kernels of the special family.
#include "../special_kernels.h"
#include "engine.h"

namespace kexue {
inline namespace KX_ISA {

extern const Table special_table;
const Table special_table = {"special", special_entries<CudaEngine>,
                             sizeof special_entries<CudaEngine> / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
