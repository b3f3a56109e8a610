# Tests: one program per folder, one ctest entry per suite of it.
#   ctest --preset release -L quick       without the slow ones
#   ctest --preset release -L '^text$'    those of one folder
if(NOT TANDEM_TESTS)
  return()
endif()

# Suites that take more than 10 seconds in a release build on two cores; all others have the label `quick`.
set(TANDEM_SLOW_SUITES cli.DeployPage cli.MllmWords cli.QuarkWords cli.Signals quantize.Cases/QuarkSearch
  quantize.PlantedShadow)

# tandem_test_options(TARGET): the flags that all tests share, so that they can share compiled headers.
function(tandem_test_options target)
  target_link_libraries(${target} PRIVATE tandem_base GTest::gtest)
  # -O1: a test runs once, and optimizing it would take longer than it runs.
  target_compile_options(${target} PRIVATE ${TANDEM_WARNINGS} $<$<CONFIG:Release>:-O1>)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
endfunction()

# The target tandem_test_headers, which compiles what most tests include.
function(tandem_test_headers)
  if(TARGET tandem_test_headers)
    return()
  endif()
  file(CONFIGURE OUTPUT test_headers.cc CONTENT "")
  add_library(tandem_test_headers OBJECT EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cc)
  tandem_test_options(tandem_test_headers)
  target_precompile_headers(tandem_test_headers PRIVATE <gtest/gtest.h> ${TANDEM_COMMON_HEADERS})
endfunction()

# tandem_tests(NAME LIBRARY...): tests/NAME/*.cc -> NAME_test, which sees the repository's folder as TANDEM_SOURCE_DIR.
function(tandem_tests name)
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/${name}/*.cc)
  if(NOT tests)
    return()
  endif()
  add_executable(${name}_test ${tests})
  target_include_directories(${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/tests)
  list(TRANSFORM TANDEM_TESTS_${name} PREPEND tandem_ OUTPUT_VARIABLE beyond)
  target_link_libraries(${name}_test PRIVATE ${ARGN} ${beyond} GTest::gtest_main)
  target_compile_definitions(${name}_test PRIVATE TANDEM_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
  tandem_test_options(${name}_test)
  if(TANDEM_QUICK_BUILD)
    tandem_test_headers()
    target_precompile_headers(${name}_test REUSE_FROM tandem_test_headers)
  endif()

  # The suites are known once the program is built; ctest reads the list then.
  set(script ${CMAKE_CURRENT_SOURCE_DIR}/cmake/list_suites.cmake)
  set(suites ${CMAKE_CURRENT_BINARY_DIR}/suites/${name})
  add_custom_command(TARGET ${name}_test POST_BUILD VERBATIM COMMAND ${CMAKE_COMMAND}
    -D PROGRAM=$<TARGET_FILE:${name}_test> -D NAME=${name} "-D SLOW=${TANDEM_SLOW_SUITES}"
    -D CACHE=${CMAKE_BINARY_DIR}/cache -D SUITES=${suites}.cmake -P ${script})
  set_property(TARGET ${name}_test APPEND PROPERTY LINK_DEPENDS ${script})
  file(CONFIGURE OUTPUT ${suites}_or_not.cmake @ONLY CONTENT [==[
if(EXISTS "@suites@.cmake")
  include("@suites@.cmake")
else()
  add_test("@name@_test is not built" "@name@_test")
endif()
]==])
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${suites}_or_not.cmake)
endfunction()
