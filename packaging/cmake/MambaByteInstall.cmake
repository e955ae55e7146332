# What is installed beside the programs, and the Debian package. The programs look for their models
# in ../share/mambabyte-playground, seen from their own folder; see engine/resources.h.
include_guard()
include(GNUInstallDirs)

install(DIRECTORY resources/models resources/texts DESTINATION ${CMAKE_INSTALL_DATADIR}/mambabyte-playground)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/mambabyte-playground RENAME copyright)
if(MB_GUI)
  install(FILES packaging/desktop/mambabyte-playground.desktop
          DESTINATION ${CMAKE_INSTALL_DATADIR}/applications)
  install(FILES packaging/desktop/mambabyte-playground.svg
          DESTINATION ${CMAKE_INSTALL_DATADIR}/icons/hicolor/scalable/apps)
  install(FILES packaging/desktop/org.mambabyte.playground.metainfo.xml
          DESTINATION ${CMAKE_INSTALL_DATADIR}/metainfo)
endif()

set(CPACK_PACKAGE_NAME mambabyte-playground)
set(CPACK_PACKAGE_CONTACT "MambaByte Playground contributors")
set(CPACK_GENERATOR DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
if(MB_GUI)
  # Loaded at run time, so that shlibdeps does not see it: Qt's X11 plugin.
  set(CPACK_DEBIAN_PACKAGE_DEPENDS qt6-qpa-plugins)
  set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "fonts-dejavu-core, qt6-wayland")
endif()
include(CPack)
