# tandem_onnx_schema(TARGET): the messages of ONNX's own schema as C++, <onnx_schema.pb.h>, for the sources of TARGET and
# of its tests.
# They are in a namespace of ours: a program that uses tandem may link the ONNX library, too.
find_package(Protobuf 3.21 REQUIRED)
find_file(ONNX_PROTO onnx/onnx.proto DOC "The ONNX schema, as in Debian's libonnx-dev and Python's package onnx" REQUIRED)

function(tandem_onnx_schema target)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/onnx_schema)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ONNX_PROTO})
  file(READ ${ONNX_PROTO} schema)
  string(REGEX REPLACE "\npackage [a-z]+;" "\npackage tandem.onnx_schema;" schema "${schema}")
  file(CONFIGURE OUTPUT ${folder}/onnx_schema.proto CONTENT "${schema}" @ONLY)
  add_custom_command(OUTPUT ${folder}/onnx_schema.pb.cc ${folder}/onnx_schema.pb.h VERBATIM
    COMMAND protobuf::protoc --cpp_out=lite:${folder} -I ${folder} onnx_schema.proto
    DEPENDS ${folder}/onnx_schema.proto)
  # For those who read the sources without a build.
  add_custom_target(onnx_schema DEPENDS ${folder}/onnx_schema.pb.cc ${folder}/onnx_schema.pb.h)
  add_dependencies(${target} onnx_schema)
  target_sources(${target} PRIVATE ${folder}/onnx_schema.pb.cc)
  set_source_files_properties(${folder}/onnx_schema.pb.cc PROPERTIES COMPILE_OPTIONS -w SKIP_PRECOMPILE_HEADERS ON)
  target_include_directories(${target} SYSTEM PRIVATE ${folder})
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf-lite)
  string(REPLACE "tandem_" "" tests "${target}_test")
  if(TARGET ${tests})
    target_include_directories(${tests} SYSTEM PRIVATE ${folder})
  endif()
endfunction()
