// The CPU kernels of the special family, once per instruction-set level.
#include "../special_kernels.h"
#include "rows.h"

namespace kexue {
inline namespace KX_ISA {

extern const Table special_table;
const Table special_table = {"special", special_entries<CpuEngine>,
                             sizeof special_entries<CpuEngine> / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
