// AVX-512 F, BW, DQ, VL; products of bytes widened to 16 bits.
#include "vec_avx512.hpp"
#include "tile.hpp"
#include "relation.hpp"

MINILM_UNIT(unit_avx512, "avx512")
MINILM_RELATION_UNIT(relation_avx512)
