// In the place of the compiler's header for the emulated build: a processor that has everything. See immintrin.h.
#pragma once

#define __builtin_cpu_supports(name) 1

inline int __get_cpuid_count(unsigned, unsigned, unsigned* a, unsigned* b, unsigned* c, unsigned* d) {
  *a = *b = *c = *d = ~0u;
  return 1;
}
