#include "units.hpp"

namespace minilm {

const char* avx2_name() { return "avx2"; }

}  // namespace minilm
