# One static library per folder of src/, with the tests of the folder of the same name beside it.

set(TANDEM_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers)
# g++ 12 sees both where there is neither, in its own string and intrinsics headers; clang keeps watch over ours.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND TANDEM_WARNINGS -Wno-restrict -Wno-maybe-uninitialized)
endif()
if(TANDEM_WERROR)
  list(APPEND TANDEM_WARNINGS -Werror)
endif()

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
    set(flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c -mamx-tile -mamx-int8)
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags};-ffp-contract=off")
endfunction()

# tandem_component(NAME DEPENDENCY...): src/NAME -> tandem_NAME, tests/NAME/*_test.cc -> NAME_test.
# The objects of every component also go into the one library that is installed (TandemInstall.cmake).
function(tandem_component name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cc)
  if(NOT sources)  # headers only
    add_library(tandem_${name} INTERFACE)
    target_include_directories(tandem_${name} INTERFACE
      ${CMAKE_CURRENT_SOURCE_DIR}/src ${CMAKE_CURRENT_SOURCE_DIR}/include)
    target_link_libraries(tandem_${name} INTERFACE ${ARGN})
  else()
    add_library(tandem_${name} STATIC ${sources})
    target_include_directories(tandem_${name} PUBLIC
      ${CMAKE_CURRENT_SOURCE_DIR}/src ${CMAKE_CURRENT_SOURCE_DIR}/include)
    target_link_libraries(tandem_${name} PUBLIC ${ARGN})
    target_compile_options(tandem_${name} PRIVATE ${TANDEM_WARNINGS})
    set_property(GLOBAL APPEND PROPERTY TANDEM_COMPONENTS tandem_${name})
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

# tandem_program(FOLDER NAME DEPENDENCY...): src/FOLDER -> build/NAME.
function(tandem_program folder name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${folder}/*.cc)
  if(NOT sources)
    message(WARNING "src/${folder} holds no source yet: ${name} is not built")
    return()
  endif()
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE ${ARGN})
  target_compile_options(${name} PRIVATE ${TANDEM_WARNINGS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  if(TANDEM_TESTS)
    tandem_tests(${folder} ${ARGN})
    if(TARGET ${folder}_test)
      add_dependencies(${folder}_test ${name})
      target_compile_definitions(${folder}_test PRIVATE TANDEM_PROGRAM="$<TARGET_FILE:${name}>")
    endif()
  endif()
endfunction()

# tests/NAME/*.cc -> NAME_test, which sees the repository's folder as TANDEM_SOURCE_DIR.
function(tandem_tests name)
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/${name}/*.cc)
  if(NOT tests)
    return()
  endif()
  add_executable(${name}_test ${tests})
  target_include_directories(${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/tests)
  target_link_libraries(${name}_test PRIVATE ${ARGN} GTest::gtest_main)
  target_compile_options(${name}_test PRIVATE ${TANDEM_WARNINGS})
  target_compile_definitions(${name}_test PRIVATE TANDEM_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
  # One ctest per program, not per test: tests of a program share what is slow to make, such as a package.
  add_test(NAME ${name} COMMAND ${name}_test)
  set_tests_properties(${name} PROPERTIES TIMEOUT 1200 ENVIRONMENT TANDEM_CACHE=${CMAKE_BINARY_DIR}/cache)
endfunction()
