// The public functions of the library; compiled without any instruction set beyond the baseline.
#include <string>

#include "source_hash.hpp"
#include "units.hpp"

#define MINILM_PUBLIC extern "C" __attribute__((visibility("default")))

// SHA-256 over the sources that this library was built from, see CMakeLists.txt.
MINILM_PUBLIC const char* minilm_kernels_source_hash() { return MINILM_SOURCE_HASH; }

// The instruction sets in this library, separated by spaces.
MINILM_PUBLIC const char* minilm_kernels_isas() {
    static const std::string names = [] {
        std::string all = minilm::scalar_name();
#ifdef MINILM_HAS_AVX2
        all.append(" ").append(minilm::avx2_name());
#endif
#ifdef MINILM_HAS_AVXVNNI
        all.append(" ").append(minilm::avxvnni_name());
#endif
#ifdef MINILM_HAS_AVX512
        all.append(" ").append(minilm::avx512_name());
#endif
#ifdef MINILM_HAS_AVX512_VNNI
        all.append(" ").append(minilm::avx512_vnni_name());
#endif
#ifdef MINILM_HAS_AVX512_BF16
        all.append(" ").append(minilm::avx512_bf16_name());
#endif
        return all;
    }();
    return names.c_str();
}

// The one that runs on this machine.
MINILM_PUBLIC const char* minilm_kernels_selected() { return minilm::scalar_name(); }
