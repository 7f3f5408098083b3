#include "units.hpp"

namespace minilm {

const char* avx512_vnni_name() { return "avx512_vnni"; }

}  // namespace minilm
