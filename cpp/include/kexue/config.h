// Compiler switches. The only header with macros; all of them begin with KX_.
//
// Kernels' locals of class types are not `const` where g++ 12 would keep them in memory for that:
// it does not take constants apart that a call has initialised, and copies them in pieces of other
// sizes than they were stored in (a third of the time of short rows). -fdump-tree-sra-details
// names them: "store to a read-only decl".
#pragma once

#if defined(__CUDACC__)
#define KX_FN __host__ __device__ __forceinline__
#else
#define KX_FN inline __attribute__((always_inline))
#endif

// A function that is seldom called: it is not worth the room inside its callers.
#if defined(__CUDACC__)
#define KX_SELDOM __host__ __device__ inline
#else
#define KX_SELDOM inline __attribute__((noinline))
#endif

// A part of an algorithm that several callers have in common: on a CPU they call one text of it.
#if defined(__CUDACC__)
#define KX_COMMON KX_FN
#else
#define KX_COMMON __attribute__((noinline))
#endif

// What is compiled once, however many call it.
#define KX_NOINLINE __attribute__((noinline))

// Before a loop over the few members of an array that belongs in registers.
#if defined(__CUDACC__)
#define KX_UNROLL _Pragma("unroll")
#else
#define KX_UNROLL _Pragma("GCC unroll 16")
#endif

// One inline namespace per instruction-set level: the linker must never merge a function compiled
// for AVX-512 with its namesake compiled for SSE4.
#ifndef KX_ISA
#define KX_ISA generic
#endif

namespace kexue {
inline namespace KX_ISA {

using index = long long;

}  // namespace KX_ISA
}  // namespace kexue
