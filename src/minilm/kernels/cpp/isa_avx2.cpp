// AVX2 with FMA; products of bytes widened to 16 bits.
#include "vec_avx2.hpp"
#include "tile.hpp"
#include "relation.hpp"

MINILM_UNIT(unit_avx2, "avx2")
MINILM_RELATION_UNIT(relation_avx2)
