from compressor_nested import Nested

from compressor.testing import parametrize_with_checks


@parametrize_with_checks([(Nested, {"hidden": 32, "latent": 6})])
def test_the_contract_is_kept(check):
    check()
