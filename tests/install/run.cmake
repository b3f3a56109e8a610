# Installs the build into a scratch prefix, moves the prefix, and builds and runs a project that knows nothing but
# find_package(tandem). Variables: BUILD, OUTSIDE, SCRATCH, COMPILER, VERSION.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "install test: status ${status} from: ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${SCRATCH}/first)
file(RENAME ${SCRATCH}/first ${SCRATCH}/prefix)  # an installation holds no absolute path of its own
run(${CMAKE_COMMAND} -S ${OUTSIDE} -B ${SCRATCH}/build -G Ninja
  -D CMAKE_PREFIX_PATH=${SCRATCH}/prefix -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run(${CMAKE_COMMAND} -E env TANDEM_CACHE=${SCRATCH}/cache ${SCRATCH}/build/outside ${OUTSIDE}/../../../models/demo)
if(NOT output MATCHES "tandem ${VERSION}")
  message(FATAL_ERROR "install test: the outside project printed '${output}', expected 'tandem ${VERSION}'")
endif()
file(REMOVE_RECURSE ${SCRATCH})
