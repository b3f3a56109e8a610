# Tests that are no C++: what an outside project sees of an installation, and the rules that tools enforce.
if(NOT TANDEM_TESTS)
  return()
endif()

add_test(NAME layering COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/scripts/check-layering)
add_test(NAME layering.self_test COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tests/layering/self_test)
add_test(NAME format COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/scripts/check-format)
set_tests_properties(format PROPERTIES SKIP_REGULAR_EXPRESSION "check-format: skipped")

if(NOT TANDEM_SANITIZE)  # an outside project would have to be built with the same sanitizer
  add_test(NAME install COMMAND ${CMAKE_COMMAND}
    -D BUILD=${CMAKE_BINARY_DIR}
    -D OUTSIDE=${CMAKE_CURRENT_SOURCE_DIR}/tests/install/outside
    -D SCRATCH=${CMAKE_BINARY_DIR}/tests/install
    -D COMPILER=${CMAKE_CXX_COMPILER}
    -D VERSION=${PROJECT_VERSION}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/tests/install/run.cmake)
  set_tests_properties(install PROPERTIES TIMEOUT 300)
endif()
