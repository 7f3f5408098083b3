// AVX-512 with VNNI.
#define MINILM_VNNI
#include "vec_avx512.hpp"
#include "tile.hpp"

MINILM_UNIT(unit_avx512_vnni, "avx512_vnni")
