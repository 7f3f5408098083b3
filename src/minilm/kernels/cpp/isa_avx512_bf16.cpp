// AVX-512 with VNNI and BF16.
#define MINILM_VNNI
#define MINILM_BF16
#include "vec_avx512.hpp"
#include "tile.hpp"

MINILM_UNIT(unit_avx512_bf16, "avx512_bf16")
