#include "units.hpp"

namespace minilm {

const char* avx512_bf16_name() { return "avx512_bf16"; }

}  // namespace minilm
