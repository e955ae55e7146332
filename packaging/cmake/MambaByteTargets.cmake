# Settings that every target of the project shares.
include_guard()

find_package(Threads REQUIRED)

# -ffp-contract=off: a product and a sum are fused only where the code says so, or the same bytes
# would give other bits in another loop.
add_library(mb_options INTERFACE)
target_compile_options(mb_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -ffp-contract=off>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${MB_WERROR}>>:-Werror>)
target_include_directories(mb_options INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}")
target_link_libraries(mb_options INTERFACE Threads::Threads)
if(MB_SANITIZE)
  target_compile_options(mb_options INTERFACE -fsanitize=${MB_SANITIZE} -fno-omit-frame-pointer
    $<$<CONFIG:Debug>:-O1>)
  target_link_options(mb_options INTERFACE -fsanitize=${MB_SANITIZE})
  if(MB_SANITIZE MATCHES "undefined")
    target_compile_options(mb_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# mb_precompile(target headers...): what most of its files include, read once.
function(mb_precompile target)
  if(MB_PRECOMPILE)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

# mb_library(name sources...): a static library with the project's settings.
function(mb_library name)
  add_library(${name} STATIC ${ARGN})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(${name} PUBLIC mb_options)
endfunction()
