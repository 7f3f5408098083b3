// What each translation unit offers to api.cpp.
#pragma once

namespace minilm {

const char* scalar_name();
const char* avx2_name();
const char* avxvnni_name();
const char* avx512_name();
const char* avx512_vnni_name();
const char* avx512_bf16_name();

}  // namespace minilm
