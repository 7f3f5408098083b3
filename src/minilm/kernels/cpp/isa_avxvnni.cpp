// AVX2 with FMA and AVX-VNNI.
#define MINILM_AVXVNNI
#include "vec_avx2.hpp"
#include "tile.hpp"

MINILM_UNIT(unit_avxvnni, "avxvnni")
