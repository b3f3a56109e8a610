# One static library per folder of src/, with the tests of the folder of the same name beside it (TandemTests.cmake).
include(TandemLayers)

# A quick build: headers that most files include are compiled once per set of flags, and the program's files in groups.
# A file still includes what it uses: clang-tidy compiles each alone, and so do builds with ccache, which cannot keep
# such results.
set(quick ON)
if(CMAKE_CXX_COMPILER_LAUNCHER MATCHES "ccache")
  set(quick OFF)
endif()
option(TANDEM_QUICK_BUILD "Precompiled headers, and the files of the program in groups" ${quick})
set(TANDEM_COMMON_HEADERS
  <fmt/format.h> <nlohmann/json.hpp> <algorithm> <array> <cmath> <cstdint> <filesystem> <fstream> <functional> <limits>
  <map> <memory> <optional> <span> <string> <string_view> <utility> <vector>)

set(TANDEM_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers)
# g++ 12 sees both where there is neither, in its own string and intrinsics headers; clang keeps watch over ours.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND TANDEM_WARNINGS -Wno-restrict -Wno-maybe-uninitialized)
endif()
# With precompiled headers it forgets the pragmas that keep its own string header quiet.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND TANDEM_QUICK_BUILD)
  list(APPEND TANDEM_WARNINGS -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
endif()
if(TANDEM_WERROR)
  list(APPEND TANDEM_WARNINGS -Werror)
endif()

include(TandemTests)

# Kernels are compiled for the instruction set that the end of their file's name says, and chosen at run time.
# -ffp-contract=off: a multiply and an add are fused only where a kernel says so, so that all kernels of one
# operation round alike.
function(tandem_set_instruction_set source)
  if(source MATCHES "_avx2\\.cc$")
    set(flags -mavx2 -mfma -mf16c)
  elseif(source MATCHES "_avx512\\.cc$")
    set(flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
  elseif(source MATCHES "_vnni\\.cc$")
    set(flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16 -mavx2 -mfma -mf16c)
  elseif(source MATCHES "_amx\\.cc$")
    set(flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c -mamx-tile -mamx-int8 -mamx-bf16)
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags};-ffp-contract=off")
endfunction()

# tandem_includes(TARGET FOLDER SCOPE): where src/FOLDER finds what it may include, and what it links for that.
function(tandem_includes target folder scope)
  target_include_directories(${target} ${scope} ${CMAKE_CURRENT_SOURCE_DIR}/src)
  if(TANDEM_LAYER_${folder}_API)
    target_include_directories(${target} ${scope} ${CMAKE_CURRENT_SOURCE_DIR}/include)
  endif()
  list(TRANSFORM TANDEM_LAYER_${folder} PREPEND tandem_ OUTPUT_VARIABLE libraries)
  target_link_libraries(${target} ${scope} ${libraries})
endfunction()

# Kernels have flags of their own, and the tensors' files no heavy headers: reading the compiled ones takes longer.
function(tandem_precompile name)
  if(NOT TANDEM_QUICK_BUILD OR name MATCHES "^(kernels|tensor)$")
    return()
  elseif(name STREQUAL "base")
    target_precompile_headers(tandem_base PRIVATE ${TANDEM_COMMON_HEADERS})
  else()
    target_precompile_headers(tandem_${name} REUSE_FROM tandem_base)
  endif()
endfunction()

# tandem_component(NAME LIBRARY...): src/NAME -> tandem_NAME, tests/NAME/*.cc -> NAME_test. It links what layers.txt
# says and the libraries of others that are named here.
# The objects of every component also go into the one library that is installed (TandemInstall.cmake).
function(tandem_component name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cc)
  if(NOT sources)  # headers only
    add_library(tandem_${name} INTERFACE)
    tandem_includes(tandem_${name} ${name} INTERFACE)
    target_link_libraries(tandem_${name} INTERFACE ${ARGN})
  else()
    add_library(tandem_${name} STATIC ${sources})
    tandem_includes(tandem_${name} ${name} PUBLIC)
    target_link_libraries(tandem_${name} PUBLIC ${ARGN})
    target_compile_options(tandem_${name} PRIVATE ${TANDEM_WARNINGS})
    set_target_properties(tandem_${name} PROPERTIES EXCLUDE_FROM_ALL ${TANDEM_FUZZ})
    set_property(GLOBAL APPEND PROPERTY TANDEM_COMPONENTS tandem_${name})
    tandem_precompile(${name})
  endif()
  foreach(source ${sources})
    if(source MATCHES "/kernels/")
      tandem_set_instruction_set(${source})
    endif()
  endforeach()
  if(TANDEM_TESTS)
    tandem_tests(${name} tandem_${name})
  endif()
endfunction()

# tandem_program(FOLDER NAME LIBRARY...): src/FOLDER/main.cc -> build/NAME. What else the folder holds is a library of its
# own, tandem_FOLDER, which its tests link too and nobody installs.
# Several files are compiled as one: what CLI11 and JSON instantiate takes longer than all that the files say.
function(tandem_program folder name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${folder}/*.cc)
  set(main ${CMAKE_CURRENT_SOURCE_DIR}/src/${folder}/main.cc)
  list(REMOVE_ITEM sources ${main})
  add_library(tandem_${folder} STATIC ${sources})
  tandem_includes(tandem_${folder} ${folder} PUBLIC)
  target_link_libraries(tandem_${folder} PUBLIC ${ARGN})
  set_target_properties(tandem_${folder} PROPERTIES UNITY_BUILD ${TANDEM_QUICK_BUILD} UNITY_BUILD_BATCH_SIZE 4)
  add_executable(${name} ${main})
  target_link_libraries(${name} PRIVATE tandem_${folder})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  foreach(target tandem_${folder} ${name})
    target_compile_options(${target} PRIVATE ${TANDEM_WARNINGS})
  endforeach()
  if(TANDEM_TESTS)
    tandem_tests(${folder} tandem_${folder})
    if(TARGET ${folder}_test)
      add_dependencies(${folder}_test ${name})
      target_compile_definitions(${folder}_test PRIVATE TANDEM_PROGRAM="$<TARGET_FILE:${name}>")
    endif()
  endif()
endfunction()
