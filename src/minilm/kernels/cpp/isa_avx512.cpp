#include "units.hpp"

namespace minilm {

const char* avx512_name() { return "avx512"; }

}  // namespace minilm
