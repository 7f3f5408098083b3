#include "units.hpp"

namespace minilm {

const char* avxvnni_name() { return "avxvnni"; }

}  // namespace minilm
