/* The instruction sets that every build holds, chosen between at run time.

   A kernel that is written three times keeps its versions side by side in one file; the attributes below let the
   compiler use an instruction set in that function alone, so no file needs flags of its own. A kernel that a compiler
   can vectorise is written once, as an ALWAYS_INLINE body that one function per instruction set contains. */
#ifndef AUGMIX_SIMD_H
#define AUGMIX_SIMD_H

#include <stddef.h>
#include <stdint.h>

enum { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86 1
#define WITH_AVX2 __attribute__((target("avx2,bmi2")))
#define WITH_AVX512 __attribute__((target("avx2,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")))
#endif

/* The version of a kernel for a variant: SELECT(variant, apply_table)(arguments). */
#if defined(HAVE_X86)
#define SELECT(variant, kernel) \
    ((variant) == AVX512 ? kernel##_avx512 : (variant) == AVX2 ? kernel##_avx2 : kernel##_portable)
#else
#define SELECT(variant, kernel) ((void)(variant), kernel##_portable)
#endif

#endif
