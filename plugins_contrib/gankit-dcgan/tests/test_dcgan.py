import gankit.testing


class TestConformance(gankit.testing.ConformanceSuite):
    package = "gankit-dcgan"
