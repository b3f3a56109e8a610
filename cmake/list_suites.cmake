# Writes the ctest entries of one test program: NAME.SUITE for each suite that it lists, with the labels NAME and quick or
# slow. Tests of a suite run in one process: they share what is slow to make, such as a package.
#   cmake -D PROGRAM=... -D NAME=... -D SLOW=NAME.SUITE;... -D CACHE=... -D SUITES=written.cmake -P list_suites.cmake
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE output RESULT_VARIABLE result)
if(result)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests: ${result}")
endif()
string(REGEX MATCHALL "(^|\n)[A-Za-z0-9_/]+\\." suites "${output}")
set(content)
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "[\n.]" "" suite "${suite}")
  set(test "${NAME}.${suite}")
  set(speed quick)
  if(test IN_LIST SLOW)
    set(speed slow)
  endif()
  string(APPEND content
    "add_test([==[${test}]==] [==[${PROGRAM}]==] [==[--gtest_filter=${suite}.*]==])\n"
    "set_tests_properties([==[${test}]==] PROPERTIES TIMEOUT 1200 LABELS [==[${NAME};${speed}]==] "
    "ENVIRONMENT [==[TANDEM_CACHE=${CACHE}]==])\n")
endforeach()
if(NOT content)
  message(FATAL_ERROR "${PROGRAM} lists no test")
endif()
file(WRITE ${SUITES} "${content}")
