// Which unit runs: those in the library that this processor can run, and the errors of the library.
//
// Included by api.cpp alone.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "engine.hpp"

namespace minilm {
extern const Unit unit_scalar;
#ifdef MINILM_HAS_AVX2
extern const Unit unit_avx2;
#endif
#ifdef MINILM_HAS_AVXVNNI
extern const Unit unit_avxvnni;
#endif
#ifdef MINILM_HAS_AVX512
extern const Unit unit_avx512;
#endif
#ifdef MINILM_HAS_AVX512_VNNI
extern const Unit unit_avx512_vnni;
#endif
#ifdef MINILM_HAS_AVX512_BF16
extern const Unit unit_avx512_bf16;
#endif
#ifdef MINILM_HAS_NEON
extern const Unit unit_neon;
#endif
}  // namespace minilm

namespace {

using namespace minilm;

thread_local std::string last_error;

int fail(const std::string& message) {
  last_error = message;
  return 1;
}

// Runs `body`; what it throws becomes the error message.
template <class Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    return fail("not enough memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

// For literals, of which no string is made: some are checked for every weight.
void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

struct Candidate {
  const Unit* unit;
  bool supported;
};

#if defined(__x86_64__)
bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

// The units in the library, best first, and whether this processor has what they need.
std::vector<Candidate> candidates() {
  std::vector<Candidate> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  [[maybe_unused]] const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
#ifdef MINILM_HAS_AVX512_BF16
  found.push_back({&unit_avx512_bf16, vnni && __builtin_cpu_supports("avx512bf16")});
#endif
#ifdef MINILM_HAS_AVX512_VNNI
  found.push_back({&unit_avx512_vnni, vnni});
#endif
#ifdef MINILM_HAS_AVX512
  found.push_back({&unit_avx512, avx512});
#endif
#ifdef MINILM_HAS_AVXVNNI
  found.push_back({&unit_avxvnni, avx2 && has_avxvnni()});
#endif
#ifdef MINILM_HAS_AVX2
  found.push_back({&unit_avx2, avx2});
#endif
  (void)avx512;
#endif
#ifdef MINILM_HAS_NEON
  found.push_back({&unit_neon, true});
#endif
  found.push_back({&unit_scalar, true});
  return found;
}

// The unit called `name`, or the best one if `name` is empty.
const Unit& choose(const std::string& name) {
  std::string names;
  for (const Candidate& one : candidates()) {
    if (name.empty() ? one.supported : name == one.unit->name) {
      require(one.supported, "this processor does not have the instruction set " + name);
      return *one.unit;
    }
    names += std::string(names.empty() ? "" : ", ") + one.unit->name;
  }
  throw std::invalid_argument("no instruction set " + name + " in this library; it has " + names);
}

}  // namespace
