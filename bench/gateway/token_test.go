package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"testing"
)

func TestATokenIsGoodForItsCompanyAndNoForgedOneIs(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{private, "key"}
	signed, err := s.access("11111111-1111-7111-8111-111111111111")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := publicKeys("key=" + base64.RawURLEncoding.EncodeToString(public))
	if err != nil {
		t.Fatal(err)
	}
	if company, err := verify(signed, keys); err != nil || company != "11111111-1111-7111-8111-111111111111" {
		t.Errorf("got %q, %v", company, err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]map[string]ed25519.PublicKey{"another's key": {"key": other}, "an unknown key": {"other": public}} {
		if _, err := verify(signed, keys); err == nil {
			t.Errorf("%s verifies it", name)
		}
	}
	if _, err := verify(signed[:len(signed)-8]+"AAAAAAAA", keys); err == nil {
		t.Error("a forged token is taken")
	}
}
