package main

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaStore keeps values as records of one topic with one partition, each acknowledged by
// all copies in sync, of which there must be two.
type kafkaStore struct {
	seeds  []string
	client *kgo.Client
}

const kafkaTopic = "values"

func (s *kafkaStore) connect() (err error) {
	if s.client == nil {
		s.client, err = kgo.NewClient(kgo.SeedBrokers(s.seeds...), kgo.DefaultProduceTopic(kafkaTopic), kgo.AllowAutoTopicCreation(), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordDeliveryTimeout(putTimeout), kgo.ConsumeTopics(kafkaTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	return err
}

func (s *kafkaStore) put(ctx context.Context, value string) error {
	if err := s.connect(); err != nil {
		return err
	}
	return s.client.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr()
}

func (s *kafkaStore) all(ctx context.Context) ([]string, error) {
	if err := s.connect(); err != nil {
		return nil, err
	}
	defer func() {
		s.client.Close()
		s.client = nil // another time from the start
	}()
	ends, err := kadm.NewClient(s.client).ListEndOffsets(ctx, kafkaTopic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	var values []string
	for int64(len(values)) < left {
		fetches := s.client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return values, fmt.Errorf("%d of %d read: %w", len(values), left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	return values, nil
}
