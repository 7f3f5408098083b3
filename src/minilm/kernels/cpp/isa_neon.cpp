// NEON of 64-bit ARM, which all of these processors have; products of bytes widened to 16 bits.
#include "vec_neon.hpp"
#include "tile.hpp"
#include "relation.hpp"

MINILM_UNIT(unit_neon, "neon")
MINILM_RELATION_UNIT(relation_neon)
