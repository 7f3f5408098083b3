#include "units.hpp"

namespace minilm {

const char* scalar_name() { return "scalar"; }

}  // namespace minilm
